//! B5. A text that the database cannot hold fails its own append alone.
