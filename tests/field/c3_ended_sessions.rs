//! C3. Sessions that the server ends cost no call.
