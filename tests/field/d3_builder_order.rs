//! D3. The order of builder calls means nothing.
