//! A function of layer L4/L7 that does to bodies and streams what a test asks for.

#![forbid(unsafe_code)]

use std::time::Duration;

use middlenet_sdk::middlebox::prelude::*;

/// Configuration.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What it does to each piece.
    mode: Mode,
}

/// What it does to each piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// Makes letters capitals, in place.
    Upper,
    /// Writes every `a` twice.
    Stretch,
    /// Keeps every other byte of a piece.
    Halve,
    /// Empties it.
    Swallow,
    /// Changes its length without having said that it would.
    Cheat,
    /// Looks at the first piece and at no more of them.
    Glance,
    /// Takes its time with heads.
    Slow,
    /// Closes the connection where a piece says `close`, and answers 403 where it says `refuse`.
    Judge,
}

/// How long `slow` takes.
const TIME: Duration = Duration::from_millis(1500);

struct Touch {
    mode: Mode,
    bad: DropReason,
    pieces: Counter,
    last_pieces: Counter,
    closed: Counter,
    finished: Counter,
}

impl Touch {
    fn piece(&mut self, piece: &mut Chunk<'_>) -> Verdict {
        self.pieces.inc();
        if piece.is_last() {
            self.last_pieces.inc();
        }
        let bytes = piece.bytes().to_vec();
        let says = |word: &[u8]| bytes.windows(word.len()).any(|w| w == word);
        match self.mode {
            Mode::Upper => piece.bytes_mut().make_ascii_uppercase(),
            Mode::Stretch => {
                let twice = |b: &u8| if *b == b'a' { vec![*b; 2] } else { vec![*b] };
                piece.replace(&bytes.iter().flat_map(twice).collect::<Vec<_>>());
            }
            Mode::Halve => {
                piece.replace(&bytes.iter().copied().step_by(2).collect::<Vec<_>>());
            }
            Mode::Swallow => {
                piece.replace(&[]);
            }
            Mode::Cheat => {
                piece.replace(&[&bytes[..], b"!"].concat());
            }
            Mode::Glance => {
                piece.bytes_mut().make_ascii_uppercase();
                return Verdict::Offload;
            }
            Mode::Slow => {}
            Mode::Judge if says(b"close") => return Verdict::Close(self.bad),
            Mode::Judge if says(b"refuse") => return Verdict::respond(403, "refused\n"),
            Mode::Judge => {}
        }
        Verdict::Next
    }

    fn head(&self) -> Verdict {
        if self.mode == Mode::Slow {
            // No function may do this; that is the point.
            std::thread::sleep(TIME);
        }
        Verdict::Next
    }
}

impl MiddleboxFunction for Touch {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD
        .with(Interests::REQUEST_BODY)
        .with(Interests::RESPONSE_HEAD)
        .with(Interests::RESPONSE_BODY)
        .with(Interests::STREAM)
        .with(Interests::RESIZES_BODY)
        .with(Interests::FINISHED)
        .with(Interests::CLOSED);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self {
            mode: config.mode,
            bad: init.drop_reason("bad", "a piece that says `close`"),
            pieces: init.counter("pieces", "pieces of bodies and streams"),
            last_pieces: init.counter("last-pieces", "pieces that are the last of their body"),
            closed: init.counter("closed", "connections that ended"),
            finished: init.counter("finished", "requests that ended"),
        })
    }

    fn interests(&self) -> Interests {
        let ends = Interests::FINISHED | Interests::CLOSED;
        let bodies = Interests::REQUEST_BODY | Interests::RESPONSE_BODY | Interests::STREAM | ends;
        match self.mode {
            Mode::Slow => Interests::REQUEST_HEAD | Interests::RESPONSE_HEAD | ends,
            Mode::Stretch | Mode::Halve | Mode::Swallow => bodies | Interests::RESIZES_BODY,
            Mode::Upper | Mode::Glance | Mode::Judge => bodies,
            Mode::Cheat => Interests::REQUEST_BODY | Interests::RESPONSE_BODY,
        }
    }

    fn request(&mut self, _: &mut Request<'_>, _: &mut Context<'_>) -> Verdict {
        self.head()
    }

    fn response(&mut self, _: &mut Response<'_>, _: &mut Context<'_>) -> Verdict {
        self.head()
    }

    fn request_body(&mut self, piece: &mut Chunk<'_>, _: &mut Context<'_>) -> Verdict {
        self.piece(piece)
    }

    fn response_body(&mut self, piece: &mut Chunk<'_>, _: &mut Context<'_>) -> Verdict {
        self.piece(piece)
    }

    fn stream(&mut self, piece: &mut Chunk<'_>, _: &mut Context<'_>) -> Verdict {
        self.piece(piece)
    }

    fn finished(&mut self, _: &Finished<'_>, _: &mut Context<'_>) {
        self.finished.inc();
    }

    fn closed(&mut self, _: &mut Context<'_>) {
        self.closed.inc();
    }
}

middlenet_sdk::main!(Touch);
