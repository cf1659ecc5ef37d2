"""From files, a hub or the embedded world to padded batches of prompts."""
