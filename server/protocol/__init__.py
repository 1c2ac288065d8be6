"""What travels on the wire: request and reply bodies, one file per endpoint family."""
