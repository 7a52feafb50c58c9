//! Tells the code of a Rust or C file from its comments and strings.

/// The same text twice, with the same lines: once only the code, once only the comments; blanks for the rest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) code: String,
    pub(crate) comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    LineComment,
    /// Rust nests them.
    BlockComment(u32),
    Text,
    /// Ends with a quote and this many hashes.
    RawText(usize),
}

/// Splits a text that the compiler accepts; of another, only the number of lines is certain.
pub(crate) fn split(text: &str) -> Parts {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut comments = Vec::with_capacity(bytes.len());
    let mut state = State::Code;
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        // How many bytes belong together here, in which state they are, and which state follows.
        let (length, here, next) = match state {
            State::Code => in_code(bytes, at),
            State::LineComment if rest[0] == b'\n' => (1, State::Code, State::Code),
            State::BlockComment(depth) if rest.starts_with(b"*/") => {
                (2, state, if depth == 1 { State::Code } else { State::BlockComment(depth - 1) })
            }
            State::BlockComment(depth) if rest.starts_with(b"/*") => (2, state, State::BlockComment(depth + 1)),
            State::Text if rest[0] == b'\\' => (2.min(rest.len()), state, state),
            State::Text if rest[0] == b'"' => (1, state, State::Code),
            State::RawText(hashes) if closes_raw(rest, hashes) => (1 + hashes, state, State::Code),
            State::LineComment | State::BlockComment(_) | State::Text | State::RawText(_) => (1, state, state),
        };
        for &byte in &rest[..length] {
            let blank = if byte == b'\n' { b'\n' } else { b' ' };
            let is_comment = matches!(here, State::LineComment | State::BlockComment(_));
            code.push(if here == State::Code { byte } else { blank });
            comments.push(if is_comment { byte } else { blank });
        }
        at += length;
        state = next;
    }
    Parts {
        code: String::from_utf8_lossy(&code).into_owned(),
        comments: String::from_utf8_lossy(&comments).into_owned(),
    }
}

fn in_code(bytes: &[u8], at: usize) -> (usize, State, State) {
    let rest = &bytes[at..];
    let follows_name = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return (2, State::LineComment, State::LineComment);
    }
    if rest.starts_with(b"/*") {
        return (2, State::BlockComment(1), State::BlockComment(1));
    }
    if rest[0] == b'"' {
        return (1, State::Text, State::Text);
    }
    if rest[0] == b'r' && (!follows_name || matches!(bytes[at - 1], b'b' | b'c')) {
        let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            return (2 + hashes, State::RawText(hashes), State::RawText(hashes));
        }
    }
    if rest[0] == b'\''
        && let Some(length) = character(rest)
    {
        return (length, State::Text, State::Code);
    }
    (1, State::Code, State::Code)
}

/// The length of a character literal; `None` for a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).take(10).position(|&byte| byte == b'\'')?;
        return Some(end + 4);
    }
    // One character of up to four bytes.
    let end = rest.iter().skip(2).take(4).position(|&byte| byte == b'\'')?;
    let is_one = std::str::from_utf8(&rest[1..end + 2]).is_ok_and(|text| text.chars().count() == 1);
    is_one.then_some(end + 3)
}

fn closes_raw(rest: &[u8], hashes: usize) -> bool {
    rest[0] == b'"' && rest.len() > hashes && rest[1..=hashes].iter().all(|&byte| byte == b'#')
}

/// Whether `word` stands in `text` by itself, not as a part of a longer name.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_name)
            && !text[at + word.len()..].chars().next().is_some_and(is_name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        split(text).code
    }

    #[test]
    fn comments_are_not_code() {
        let parts = split("a(); // one\n/* two /* three */ four */ b();\n");
        assert_eq!(parts.code, "a();       \n                           b();\n");
        assert_eq!(parts.comments, "     // one\n/* two /* three */ four */     \n");
    }

    #[test]
    fn strings_are_neither() {
        assert_eq!(code(r#"f("unsafe \" //", x)"#), r"f(              , x)");
        assert_eq!(code("f(r#\"un\"safe\"#, x)"), "f(            , x)");
        assert_eq!(code("f(br\"\\\", x)"), "f(b    , x)");
        assert_eq!(code("for\"x\""), "for   ");
    }

    #[test]
    fn a_quote_character_does_not_open_a_string() {
        assert_eq!(code("f('\"', '\\'', '\\u{1F600}', 'é', x)"), "f(   ,     ,            ,     , x)");
    }

    #[test]
    fn a_lifetime_is_code() {
        assert_eq!(code("fn f<'a>(x: &'a str, y: &'static str) {}"), "fn f<'a>(x: &'a str, y: &'static str) {}");
    }

    #[test]
    fn lines_stay_lines_in_any_text() {
        for text in ["\"a\nb", "/* a\nb", "r#\"\n\n", "'\n'", "\\\n\"\\", "b'\\''\n"] {
            let parts = split(text);
            assert_eq!(parts.code.matches('\n').count(), text.matches('\n').count(), "{text:?}");
        }
    }

    #[test]
    fn words_stand_alone() {
        assert!(has_word("unsafe {", "unsafe"));
        assert!(has_word("(unsafe)", "unsafe"));
        assert!(!has_word("forbid(unsafe_code)", "unsafe"));
        assert!(!has_word("not_unsafe", "unsafe"));
    }
}
