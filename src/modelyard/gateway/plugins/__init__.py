"""What plugins and their hosts call."""
