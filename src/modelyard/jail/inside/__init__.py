"""What runs on the other side: programs of their own, which import nothing of ours but each other."""
