//! A6. Long processes and many open deadlines cost by what changes.
