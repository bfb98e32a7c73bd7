//! The example as a running process.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The longest a run may take on a slow and busy machine.
const PATIENCE: Duration = Duration::from_mins(4);

/// A running process, killed when a test fails.
pub(crate) struct Shop(Child);

impl Shop {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Without a warning.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("a child can be killed");
        self.0.wait().expect("a child can be waited for");
    }

    /// Asks it to end: SIGTERM.
    pub(crate) fn ask_to_stop(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
    }

    /// Reads what it says to people, up to a line with these words; it is not there afterwards.
    pub(crate) fn await_line(&mut self, words: &str) {
        let stderr = self.0.stderr.as_mut().expect("it is a pipe");
        let mut said = String::new();
        while !said.lines().any(|line| line.contains(words)) || !said.ends_with('\n') {
            // Byte by byte, so that the rest stays in the pipe.
            let mut byte = [0];
            stderr.read_exact(&mut byte).unwrap_or_else(|_| panic!("it has ended without {words:?}: {said}"));
            said.push(char::from(byte[0]));
        }
    }

    /// Nothing has ended it.
    pub(crate) fn assert_running(&mut self) {
        if self.is_running() {
            return;
        }
        let mut said = String::new();
        let stderr = self.0.stderr.as_mut().expect("it is a pipe");
        stderr.read_to_string(&mut said).expect("a pipe can be read");
        panic!("it has ended: {said}");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("a child can be asked").is_none()
    }

    /// Waits for the end. What it prints fits into a pipe.
    pub(crate) fn output(mut self) -> Output {
        let end = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < end, "the shop does not come to an end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let read = |pipe: Option<&mut dyn Read>| {
            let mut bytes = Vec::new();
            pipe.map(|pipe| pipe.read_to_end(&mut bytes).expect("a pipe can be read"));
            bytes
        };
        let stdout = read(self.0.stdout.as_mut().map(|pipe| pipe as _));
        let stderr = read(self.0.stderr.as_mut().map(|pipe| pipe as _));
        Output { status: self.0.wait().expect("a child can be waited for"), stdout, stderr }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        // It has ended already, unless the test fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(command: &mut Command) -> Shop {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn();
    Shop(child.expect("the shop starts"))
}

/// The example lies beside the folder of this test. Cargo does not build it for a test, so it may be missing or old.
pub(crate) fn shop() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its path");
    let folder = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let shop = folder.join("examples").join(format!("shop{}", std::env::consts::EXE_SUFFIX));
    assert!(shop.exists(), "{} is missing: run `cargo build --all-features --example shop`", shop.display());
    if let Some(newer) = newer_source(&shop) {
        panic!("{} is older than {newer}: run `cargo build --all-features --example shop`", shop.display());
    }
    shop
}

/// A source file that was changed after the program was built. Cargo lists them beside it, as a rule of make.
fn newer_source(program: &Path) -> Option<String> {
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    let built = changed(program)?;
    let rule = fs::read_to_string(program.with_extension("d")).ok()?;
    let (_, sources) = rule.split_once(": ")?;
    let newer = sources.split_whitespace().find(|source| changed(Path::new(source)) > Some(built))?;
    Some(newer.to_owned())
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
