//! Accepted uses of the derive macros, and the errors for the others.

/// The notes of the compiler change between releases, so the expected messages are those of the toolchain that CI pins.
#[test]
fn derive_errors_are_explained_and_rare_shapes_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
