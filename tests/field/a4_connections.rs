//! A4. Handlers that need connections do not deadlock with the workers that run them.
