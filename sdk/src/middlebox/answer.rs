//! A response that a function makes itself.

use std::borrow::Cow;

/// A response in place of an upstream's. Length and connection headers are the broker's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    headers: Vec<(Cow<'static, str>, Vec<u8>)>,
    body: Vec<u8>,
}

impl Answer {
    /// An answer with that status and no body; statuses below 200 and above 599 become 500.
    pub fn new(status: u16) -> Self {
        let status = if (200..600).contains(&status) { status } else { 500 };
        Self { status, ..Self::default() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    /// Sets the body and its type. Head and body fit a buffer, about 15,000 bytes; a larger answer becomes a bare 500.
    #[must_use]
    pub fn with_body(self, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let mut answer = self.header("content-type", content_type);
        answer.body = body.into();
        answer
    }

    /// Sets a body of plain text.
    #[must_use]
    pub fn with_text(self, text: impl Into<String>) -> Self {
        self.with_body("text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// A redirection.
    pub fn redirect(status: u16, location: impl AsRef<[u8]>) -> Self {
        Self::new(status).header("location", location)
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Its body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Its headers.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice()))
    }
}
