"""What becomes of each part of a call between two formats: features of requests and
answers as data, and a runner that sends each through a gateway."""
