//! A1. A panic in user code is a failure of that event or append, on every store and in every runner.
