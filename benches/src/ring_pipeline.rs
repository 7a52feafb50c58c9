//! The peer of process placement: the same pipeline in plain C on `rte_ring`, compiled here and now.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use middlenet_tests::Process;

use crate::BenchError;
use crate::work_folder::WorkFolder;

const SOURCE: &str = include_str!("../reference/ring_pipeline.c");
const COMPILE_PATIENCE: Duration = Duration::from_secs(60);
/// Beyond its time of measuring.
const PATIENCE: Duration = Duration::from_secs(20);

/// The compiled program.
#[derive(Debug)]
pub struct RingPipeline(PathBuf);

impl RingPipeline {
    /// Compiles it for this processor.
    ///
    /// # Errors
    /// When there is no C compiler, no pkg-config, no libdpdk, or they refuse.
    pub fn compile(folder: &WorkFolder) -> Result<Self, BenchError> {
        let source = folder.write("ring_pipeline.c", SOURCE.as_bytes())?;
        let program = folder.path().join("ring_pipeline");
        let flags = output(Command::new("pkg-config").args(["--cflags", "--libs", "libdpdk"]), PATIENCE)?;
        let mut cc = Command::new("cc");
        cc.args(["-O3", "-march=native"]).arg(&source).arg("-o").arg(&program).args(flags.split_whitespace());
        output(&mut cc, COMPILE_PATIENCE)?;
        Ok(Self(program))
    }

    /// Runs it between two null devices with frames of `frame_bytes`; returns packets per second.
    ///
    /// # Errors
    /// When it fails or prints no rate.
    pub fn run(&self, frame_bytes: usize, seconds: f64) -> Result<f64, BenchError> {
        let mut command = command(&self.0);
        command.arg(format!("--vdev=net_null0,size={frame_bytes}")).arg("--vdev=net_null1");
        command.env("SECONDS_RUN", seconds.to_string());
        let text = output(&mut command, PATIENCE + Duration::from_secs_f64(seconds))?;
        rate(&text).ok_or_else(|| BenchError::Failed(format!("ring_pipeline printed no rate: {}", text.trim())))
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["-l", "0-1", "--no-pci", "--in-memory"]);
    command
}

fn output(command: &mut Command, patience: Duration) -> Result<String, BenchError> {
    let output = Process::spawn(command)?.wait(patience)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let program = command.get_program().to_string_lossy();
    Err(BenchError::Failed(format!("{program} ended with {}: {}", output.status, output.stderr.trim())))
}

/// Packets per second from `12.34 Mpps`.
fn rate(text: &str) -> Option<f64> {
    let line = text.lines().rev().find_map(|line| line.trim().strip_suffix(" Mpps"))?;
    line.parse::<f64>().ok().map(|mpps| mpps * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_last_line_that_has_one() {
        assert_eq!(rate("EAL: something\n12.34 Mpps\n"), Some(12_340_000.0));
        assert_eq!(rate("Mpps\n"), None);
        assert_eq!(rate("many Mpps\n"), None);
    }
}
