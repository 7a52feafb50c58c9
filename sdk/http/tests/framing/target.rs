use middlenet_http::*;

fn canonical(target: &str) -> Result<String, Reject> {
    let mut out = b"left over".to_vec();
    let changed = canonical_target(target.as_bytes(), &mut out)?;
    let result = if changed { String::from_utf8(out).unwrap() } else { target.to_owned() };
    assert_eq!(changed, result != target, "{target}");
    Ok(result)
}

#[test]
fn one_spelling() {
    for (target, expected) in [
        ("/", "/"),
        ("*", "*"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("/a.b/.c/..d/e..", "/a.b/.c/..d/e.."),
        ("/...", "/..."),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/b/../c", "/a/c"),
        ("/a/b/../../c", "/c"),
        ("/.", "/"),
        ("//", "/"),
        ("//a", "/a"),
        ("/a//b///c//", "/a/b/c/"),
        ("/a//../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/%2e", "/a/"),
        ("/%61%5f%7E%2d", "/a_~-"),
        ("/%c3%a4", "/%C3%A4"),
        ("/%20%25", "/%20%25"),
        ("/%252e%252e/", "/%252e%252e/"),
        ("/a;b=c/d", "/a;b=c/d"),
        ("/a?b", "/a?b"),
        ("/a/../b?c/../%2f//%", "/b?c/../%2f//%"),
        ("/?", "/?"),
        ("/a/..?", "/?"),
        ("http://h", "/"),
        ("http://h?q", "/?q"),
        ("HTTPS://h:1/a/../b", "/b"),
    ] {
        assert_eq!(canonical(target).as_deref(), Ok(expected), "{target}");
        assert_eq!(canonical(expected).as_deref(), Ok(expected), "{expected}");
    }
}

/// One test per line: name, target, reject.
macro_rules! refused {
    ($($name:ident: $target:expr => $reject:ident,)*) => { $(
        #[test]
        fn $name() {
            assert_eq!(canonical($target), Err(Reject::$reject));
        }
    )* };
}

refused! {
    escape: "/.." => PathEscapesRoot,
    escape_deep: "/a/../../b" => PathEscapesRoot,
    escape_encoded: "/%2e%2e/a" => PathEscapesRoot,
    escape_after_merged_slashes: "//../a" => PathEscapesRoot,
    encoded_slash: "/a%2fb" => AmbiguousPath,
    encoded_slash_upper_case: "/a%2F..%2Fb" => AmbiguousPath,
    encoded_backslash: "/a%5cb" => AmbiguousPath,
    backslash: "/a\\..\\b" => AmbiguousPath,
    encoded_nul: "/a%00" => AmbiguousPath,
    dot_segment_with_parameters: "/a/..;x/b" => AmbiguousPath,
    dot_segment_with_parameters_encoded: "/a/%2e;/b" => AmbiguousPath,
    percent_alone: "/a%" => BadPercent,
    percent_with_one_digit: "/a%2" => BadPercent,
    percent_with_other_digits: "/a%2g" => BadPercent,
    percent_across_a_slash: "/a%2/e" => BadPercent,
    percent_before_the_query: "/a%2?e" => BadPercent,
    control_byte_in_the_query: "/a?\x01" => BadTarget,
    beyond_ascii: "/\u{e4}" => BadTarget,
    space: "/a b" => BadTarget,
    fragment: "/a#b" => BadTarget,
    authority_form: "a:443" => BadTarget,
    empty: "" => BadTarget,
    other_scheme: "ftp://a/" => BadTarget,
}
