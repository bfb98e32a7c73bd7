//! A2. A handler that is slower than the server allows counts as failed, and is parked.
