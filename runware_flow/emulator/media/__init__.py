"""What the service stores and makes: pictures, films, sounds and other files."""
