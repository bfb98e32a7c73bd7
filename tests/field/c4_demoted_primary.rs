//! C4. Sessions on a demoted primary are replaced.
