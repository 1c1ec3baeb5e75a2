"""What would go wrong or cost too much, found before anything is trained."""
