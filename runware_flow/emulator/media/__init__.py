"""The media of the emulator: pictures, films, sounds and other files, made and stored."""
