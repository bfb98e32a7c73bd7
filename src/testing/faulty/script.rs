//! Random scripts of faults.

/// Draws `count` items from `all` with the generator SplitMix64.
pub(super) fn seeded<T: Copy>(all: &[T], seed: u64, count: usize) -> Vec<T> {
    let mut state = seed;
    let draw = |_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        // The conversion never fails: the remainder is less than the length.
        all[usize::try_from((bits ^ (bits >> 31)) % all.len() as u64).unwrap_or(0)]
    };
    (0..count).map(draw).collect()
}
