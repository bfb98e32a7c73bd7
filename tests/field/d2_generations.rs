//! D2. Readers and `wait_for` agree on the generation of a view.
