//! D1. Another request under a used idempotency key is refused.
