//! Why bytes are not HTTP/1.1 as this crate reads it.

/// Declares [`Reject`] and its tables from one list, so that a variant cannot lack its name or its status.
macro_rules! rejects {
    ($($variant:ident $reason:literal $status:literal $sentence:literal)*) => {
        /// Why a message is refused. After any of these nobody knows where the next message starts: the connection is closed
        /// once it is answered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Reject {
            $(
                #[doc = $sentence]
                #[error($sentence)]
                $variant,
            )*
        }

        impl Reject {
            /// All variants, each at its [`index`](Reject::index).
            pub const ALL: [Reject; [$($reason),*].len()] = [$(Reject::$variant),*];

            /// A stable name for counters, such as `bare-lf`.
            pub const fn reason(self) -> &'static str {
                match self { $(Reject::$variant => $reason,)* }
            }

            /// The status that answers a request refused for this. A response refused for it is answered 502 instead.
            pub const fn status(self) -> u16 {
                match self { $(Reject::$variant => $status,)* }
            }
        }
    };
}

impl Reject {
    /// Its place in [`Reject::ALL`], for counters kept in arrays.
    pub const fn index(self) -> usize {
        self as usize
    }
}

rejects! {
    BareLf "bare-lf" 400 "a line ends with LF alone instead of CRLF"
    BareCr "bare-cr" 400 "CR is not followed by LF"
    Nul "nul" 400 "a NUL byte is where text belongs"
    LeadingEmptyLines "leading-empty-lines" 400 "more than one empty line precedes the request line"
    BadMethod "bad-method" 400 "the method is not a token"
    MethodTooLong "method-too-long" 501 "the method is longer than any that is known"
    BadTarget "bad-target" 400 "the request target has none of the forms that the method allows, or a byte that no URI has"
    TargetTooLong "target-too-long" 414 "the request target is longer than the limit"
    BadRequestLine "bad-request-line" 400 "the request line is not method, target and version with one space between"
    VersionUnsupported "version-unsupported" 505 "the version is neither HTTP/1.0 nor HTTP/1.1"
    BadStatusLine "bad-status-line" 400 "the status line is not version, three digits and reason"
    HeadTooLarge "head-too-large" 431 "the head is larger than the limit"
    TooManyHeaders "too-many-headers" 431 "the head has more header lines than the limit"
    HeaderNameTooLong "header-name-too-long" 431 "a header name is longer than 255 bytes"
    LeadingWhitespace "leading-whitespace" 400 "white space precedes the first header line"
    ObsFold "obs-fold" 400 "a header line is folded"
    EmptyHeaderName "empty-header-name" 400 "a header line starts with its colon"
    SpaceBeforeColon "space-before-colon" 400 "white space stands between a header name and its colon"
    BadHeaderName "bad-header-name" 400 "a header name is not a token followed by a colon"
    BadHeaderValue "bad-header-value" 400 "a header value has a control byte"
    NoHost "no-host" 400 "an HTTP/1.1 request has no Host"
    RepeatedHost "repeated-host" 400 "a request has more than one Host"
    BadHost "bad-host" 400 "the host is not a name or an address with an optional port"
    HostDisagrees "host-disagrees" 400 "the request target names another host than Host does"
    BadContentLength "bad-content-length" 400 "Content-Length is not one decimal number below 2^64"
    RepeatedContentLength "repeated-content-length" 400 "a head has more than one Content-Length"
    LengthAndEncoding "length-and-encoding" 400 "a head has both Content-Length and Transfer-Encoding"
    RepeatedTransferEncoding "repeated-transfer-encoding" 400 "a head has more than one Transfer-Encoding"
    BadTransferEncoding "bad-transfer-encoding" 400 "chunked is not the final transfer coding, or not there exactly once"
    TransferCodingUnsupported "transfer-coding-unsupported" 501 "a transfer coding other than chunked is applied"
    TransferEncodingInOldVersion "transfer-encoding-in-old-version" 400 "an HTTP/1.0 message has Transfer-Encoding"
    TooManyConnectionOptions "too-many-connection-options" 400 "Connection lists more than 32 options"
    ExpectationUnknown "expectation-unknown" 417 "Expect asks for something other than 100-continue"
    BodyTooLarge "body-too-large" 413 "the body is larger than the limit"
    BadChunkSize "bad-chunk-size" 400 "a chunk size is not one to sixteen hexadecimal digits"
    BadChunkExtension "bad-chunk-extension" 400 "a chunk extension has a control byte"
    ChunkLineTooLong "chunk-line-too-long" 400 "the line before a chunk is longer than the limit"
    ChunkOverhead "chunk-overhead" 400 "chunk extensions outweigh the body they come with"
    BadChunkEnd "bad-chunk-end" 400 "a chunk is not followed by CRLF"
    TrailersTooLarge "trailers-too-large" 431 "the trailer section is larger than the limit"
    BodyCutShort "body-cut-short" 400 "the connection ended before the body did"
    PathEscapesRoot "path-escapes-root" 400 "the path climbs above its root"
    AmbiguousPath "ambiguous-path" 400 "the path has a byte that another parser may take for a separator or for its end"
    BadPercent "bad-percent" 400 "a percent sign in the path is not followed by two hexadecimal digits"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_agree() {
        let mut reasons: Vec<_> = Reject::ALL.iter().map(|reject| reject.reason()).collect();
        for (index, reject) in Reject::ALL.iter().enumerate() {
            assert_eq!(reject.index(), index);
            assert!([400, 413, 414, 417, 431, 501, 505].contains(&reject.status()));
            assert!(reject.reason().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
        }
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), Reject::ALL.len());
    }
}
