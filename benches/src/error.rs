//! Why a benchmark or the demo could not do what it is for.

use std::path::{Path, PathBuf};

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The host has not what this needs, in one sentence.
    #[error("{0}")]
    Host(String),
    /// A program did not do what it should.
    #[error("{0}")]
    Failed(String),
    /// A namespace, cable or process is not as wanted.
    #[error(transparent)]
    Stage(#[from] middlenet_tests::Error),
    /// The run could not be asked.
    #[error(transparent)]
    Client(#[from] middlenet_runtime::api::ClientError),
    /// A file could not be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A chart could not be drawn.
    #[error("cannot draw {what}: {cause}")]
    Chart {
        /// Which one.
        what: String,
        /// What the drawing library said.
        cause: String,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl BenchError {
    /// For `map_err` after an operation on `path`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { path, source }
    }

    /// The sentence with its causes.
    pub fn sentence(&self) -> String {
        let mut sentence = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !sentence.contains(&text) {
                sentence.push_str(": ");
                sentence.push_str(&text);
            }
            cause = inner.source();
        }
        sentence
    }
}
