"""What a method computes, token by token."""
