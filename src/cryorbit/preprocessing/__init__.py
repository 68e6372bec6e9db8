"""From particle images to network input."""
