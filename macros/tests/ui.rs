//! What the derive macros accept, and what they say where they do not.

/// The compiler's own notes change from release to release: the messages are those of the toolchain that CI pins.
#[test]
fn mistakes_are_explained_and_odd_shapes_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
}
