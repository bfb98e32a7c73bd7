//! C9. A backend that dies of a full disk leaves the outcome of an append unknown.
