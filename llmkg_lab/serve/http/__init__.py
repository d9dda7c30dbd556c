"""What speaks HTTP: the application, what guards it, and its endpoints."""
