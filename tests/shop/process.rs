//! The example `shop` as a running process.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Time limit of a run, long enough for a slow and busy machine.
const TIMEOUT: Duration = Duration::from_mins(4);

/// A running process, which is killed if the test fails.
pub(crate) struct Shop(Child);

impl Shop {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("a child can be killed");
        self.0.wait().expect("a child can be waited for");
    }

    /// Asks the process to stop, with SIGTERM.
    pub(crate) fn ask_to_stop(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
    }

    /// Reads standard error up to a line that contains `words`. `output` does not return the lines read here.
    pub(crate) fn await_line(&mut self, words: &str) {
        let stderr = self.0.stderr.as_mut().expect("it is a pipe");
        let mut printed = String::new();
        while !printed.lines().any(|line| line.contains(words)) || !printed.ends_with('\n') {
            // Reads byte by byte, so that the rest stays in the pipe.
            let mut byte = [0];
            stderr
                .read_exact(&mut byte)
                .unwrap_or_else(|_| panic!("the shop ended without printing {words:?}: {printed}"));
            printed.push(char::from(byte[0]));
        }
    }

    /// Asserts that the process still runs.
    pub(crate) fn assert_running(&mut self) {
        if self.is_running() {
            return;
        }
        let mut printed = String::new();
        let stderr = self.0.stderr.as_mut().expect("it is a pipe");
        stderr.read_to_string(&mut printed).expect("a pipe can be read");
        panic!("the shop ended early: {printed}");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("a child can be asked").is_none()
    }

    /// Waits for the end of the process, whose output must fit into a pipe.
    pub(crate) fn output(mut self) -> Output {
        let end = Instant::now() + TIMEOUT;
        while self.is_running() {
            assert!(Instant::now() < end, "the shop did not end in time");
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
        // The process still runs only if the test fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(command: &mut Command) -> Shop {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn();
    Shop(child.expect("the shop starts"))
}

/// Returns the path of the example, which is in a folder next to that of this test. Cargo does not build it for a test,
/// so it may be missing or outdated.
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

/// Returns a source file that changed after the program was built. Cargo lists the sources in a file next to the
/// program, as a rule of make.
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
