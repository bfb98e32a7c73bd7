//! C2. A connection that dies silently costs one call a limited time.
