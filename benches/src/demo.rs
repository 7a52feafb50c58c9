//! `middlenet-bench demo`.

use std::path::Path;

use crate::BenchError;

/// Shows the runtime at work.
///
/// # Errors
/// When anything does not go as it should.
pub fn run(_json: Option<&Path>) -> Result<(), BenchError> {
    Err(BenchError::Failed("not yet".into()))
}
