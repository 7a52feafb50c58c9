//! YAML as a tree in which every node knows its place in the source.

use granit_parser::{Event, Parser, ScalarStyle, Span as ParserSpan, StructureStyle, options};
use serde_json::{Map, Number, Value};
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::diagnostic::Diagnostic;

/// Bytes of the source, from the first to one past the last.
pub type Span = Range<usize>;

/// Nodes that aliases may add; what one line of YAML can ask for is unbounded otherwise.
const NODE_LIMIT: usize = 2_000_000;
/// Sequences and mappings inside each other; a manifest needs about eight.
const DEPTH_LIMIT: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its place in the source.
    pub span: Span,
    /// What it is.
    pub content: Content,
}

/// The kinds of values, by YAML 1.2's core schema.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A null, boolean, number or string.
    Scalar(Value),
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping in the order of the source; keys are unique.
    Mapping(Vec<Entry>),
}

/// One line of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key as text.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

/// A step from a node to one below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Into a mapping.
    Key(&'a str),
    /// Into a list.
    Index(usize),
}

impl Node {
    /// The node as JSON.
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::Sequence(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Content::Mapping(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    /// The entries of a mapping; empty for anything else.
    pub fn entries(&self) -> &[Entry] {
        if let Content::Mapping(entries) = &self.content { entries } else { &[] }
    }

    /// The items of a list; empty for anything else.
    pub fn items(&self) -> &[Node] {
        if let Content::Sequence(items) = &self.content { items } else { &[] }
    }

    /// The entry under a key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|e| e.key == key)
    }

    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &e.value)
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Content::Scalar(Value::String(text)) = &self.content { Some(text) } else { None }
    }

    /// Whether this is nothing: `key:` with no value.
    pub fn is_null(&self) -> bool {
        self.content == Content::Scalar(Value::Null)
    }

    /// The node at the end of a path, or the last one on the way that exists.
    pub fn nearest<'a>(&'a self, path: impl IntoIterator<Item = Step<'a>>) -> &'a Node {
        let mut node = self;
        for step in path {
            let below = match step {
                Step::Key(key) => node.get(key),
                Step::Index(index) => node.items().get(index),
            };
            match below {
                Some(below) => node = below,
                None => break,
            }
        }
        node
    }

    /// What a person calls this kind of value.
    pub fn kind(&self) -> &'static str {
        match &self.content {
            Content::Scalar(Value::Null) => "nothing",
            Content::Scalar(Value::Bool(_)) => "a boolean",
            Content::Scalar(Value::Number(_)) => "a number",
            Content::Scalar(_) => "a string",
            Content::Sequence(_) => "a list",
            Content::Mapping(_) => "a mapping",
        }
    }
}

/// Reads the one document of `source`.
///
/// # Errors
/// Where and why the text is not YAML, or is more than a manifest may be. Never panics.
pub fn parse(source: &str) -> Result<Node, Diagnostic> {
    let options = options! { emit_comments: false };
    let mut builder = Builder::default();
    let mut documents = 0;
    for next in Parser::new_from_str_with_options(source, options) {
        let (event, span) = next.map_err(|e| syntax_error(source, &e))?;
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                return Err(Diagnostic::new(
                    range(&span, source),
                    "a manifest is one document, but a second one starts here",
                )
                .with_hint("remove the `---` and what follows, or put it into a file of its own"));
            }
        }
        builder.take(event, range(&span, source))?;
    }
    let empty = || Node { span: 0..source.len().min(1), content: Content::Scalar(Value::Null) };
    Ok(builder.root.unwrap_or_else(empty))
}

fn range(span: &ParserSpan, source: &str) -> Span {
    let Range { start, end } = span.byte_range().unwrap_or(0..0);
    let start = start.min(source.len());
    let end = end.clamp(start, source.len());
    // A block's span runs on to the next token: only its text is of interest.
    let text = source.get(start..end).unwrap_or("");
    start..start + text.trim_end().len()
}

fn syntax_error(source: &str, error: &granit_parser::ScanError) -> Diagnostic {
    let at = error.marker().byte_offset().unwrap_or(source.len()).min(source.len());
    let end = source.get(at..).and_then(|rest| rest.chars().next()).map_or(at, |c| at + c.len_utf8());
    Diagnostic::new(at..end, format!("this is not YAML: {}", error.info()))
}

/// A collection whose end has not been seen.
struct Open {
    node: Node,
    style: StructureStyle,
    anchor: usize,
    key: Option<(String, Span)>,
    /// Keys so far, for mappings of many entries.
    seen: HashSet<String>,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Diagnostic> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let string = tag.is_some_and(|t| t.is_yaml_core_schema_tag("str"));
                let value = if plain && !string { resolve(&text) } else { Value::String(text.into_owned()) };
                self.close(Node { span, content: Content::Scalar(value) }, anchor)
            }
            Event::SequenceStart(style, anchor, _) => self.begin(span, Content::Sequence(Vec::new()), style, anchor),
            Event::MappingStart(style, anchor, _) => self.begin(span, Content::Mapping(Vec::new()), style, anchor),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { mut node, anchor, style, .. }) => {
                    // A block ends where the next token begins: of interest is where its last value does.
                    let bracket = if style == StructureStyle::Flow { span.end } else { 0 };
                    node.span.end = node.span.end.max(bracket).max(last_byte(&node));
                    self.close(node, anchor)
                }
                None => Ok(()),
            },
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    return Err(Diagnostic::new(span, "an alias cannot stand inside what it refers to"));
                };
                let node = Node { span, ..node.clone() };
                self.nodes += size(&node);
                self.close(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, span: Span, content: Content, style: StructureStyle, anchor: usize) -> Result<(), Diagnostic> {
        if self.open.len() >= DEPTH_LIMIT {
            return Err(Diagnostic::new(span, format!("more than {DEPTH_LIMIT} levels of nesting")));
        }
        self.open.push(Open { node: Node { span, content }, style, anchor, key: None, seen: HashSet::new() });
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), Diagnostic> {
        self.nodes += 1;
        if self.nodes > NODE_LIMIT {
            return Err(Diagnostic::new(node.span, format!("more than {NODE_LIMIT} values in one file")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping(entries) => match open.key.take() {
                None => {
                    let key = key_text(&node)?;
                    if !open.seen.insert(key.clone()) {
                        return Err(Diagnostic::new(node.span, format!("`{key}` is here twice"))
                            .with_hint("keep one of the two"));
                    }
                    open.key = Some((key, node.span));
                }
                Some((key, key_span)) => entries.push(Entry { key, key_span, value: node }),
            },
            Content::Scalar(_) => {}
        }
        Ok(())
    }
}

fn key_text(node: &Node) -> Result<String, Diagnostic> {
    match &node.content {
        Content::Scalar(Value::String(text)) => Ok(text.clone()),
        Content::Scalar(Value::Null) => Err(Diagnostic::new(node.span.clone(), "a key is missing")),
        Content::Scalar(value) => Ok(value.to_string()),
        _ => Err(Diagnostic::new(node.span.clone(), "a key is text, not a list or a mapping")
            .with_hint("if it is an IPv6 address, put it into quotes: `\"[::]:80\"`")),
    }
}

/// Where the last thing inside a collection ends.
fn last_byte(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(_) => node.span.end,
        Content::Sequence(items) => items.last().map_or(0, |n| n.span.end),
        Content::Mapping(entries) => entries.last().map_or(0, |e| e.value.span.end),
    }
}

fn size(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(_) => 1,
        Content::Sequence(items) => 1 + items.iter().map(size).sum::<usize>(),
        Content::Mapping(entries) => 1 + entries.iter().map(|e| size(&e.value)).sum::<usize>(),
    }
}

/// YAML 1.2's core schema: `no` and `12:30` are strings.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Value::String(text.into());
    }
    if let Some(hex) = digits.strip_prefix("0x")
        && let Ok(n) = u64::from_str_radix(hex, 16)
        && digits.len() == text.len()
    {
        return Value::from(n);
    }
    if let Ok(n) = text.strip_prefix('+').unwrap_or(text).parse::<u64>() {
        return Value::from(n);
    }
    if let Ok(n) = text.parse::<i64>() {
        return Value::from(n);
    }
    let number = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse::<f64>() {
        Ok(f) if number => Number::from_f64(f).map_or_else(|| Value::String(text.into()), Value::Number),
        _ => Value::String(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn json_of(source: &str) -> Value {
        parse(source).unwrap().to_json()
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let source = "[no, 12, -3, 0x1f, 1.5, 1e3, ~, '12', 10.0.0.0/8, 0000:01:00.0, 02:00:00:00:00:01, .inf, 1_000]";
        let expected = json!([
            "no",
            12,
            -3,
            31,
            1.5,
            1000.0,
            null,
            "12",
            "10.0.0.0/8",
            "0000:01:00.0",
            "02:00:00:00:00:01",
            ".inf",
            "1_000"
        ]);
        assert_eq!(json_of(source), expected);
    }

    #[test]
    fn every_node_knows_its_place() {
        let source = "a:\n  b: [1, two]\nc: {d: x}\n";
        let root = parse(source).unwrap();
        let text = |node: &Node| source[node.span.clone()].to_owned();
        assert_eq!(text(root.get("a").unwrap().get("b").unwrap()), "[1, two]");
        assert_eq!(text(&root.get("a").unwrap().get("b").unwrap().items()[1]), "two");
        assert_eq!(&source[root.get("c").unwrap().entry("d").unwrap().key_span.clone()], "d");
        assert_eq!(text(root.get("a").unwrap()), "b: [1, two]");
    }

    #[test]
    fn aliases_stand_for_their_anchors() {
        assert_eq!(json_of("a: &x [1, 2]\nb: *x\n"), json!({"a": [1, 2], "b": [1, 2]}));
        assert!(parse("a: &x [*x]\n").unwrap_err().message.contains("alias"));
    }

    #[test]
    fn a_billion_laughs_are_refused() {
        let mut source = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let before = vec![format!("*a{}", i - 1); 10].join(", ");
            source.push_str(&format!("a{i}: &a{i} [{before}]\n"));
        }
        assert!(parse(&source).unwrap_err().message.contains("values in one file"));
    }

    #[test]
    fn depth_is_bounded() {
        assert!(parse(&"[".repeat(70)).is_err());
        assert!(parse(&"- ".repeat(5000)).is_err());
    }

    #[test]
    fn double_keys_and_second_documents_are_refused() {
        let e = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!((e.message.as_str(), e.span), ("`a` is here twice", 10..11));
        assert!(parse("a: 1\n---\nb: 2\n").unwrap_err().message.contains("one document"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(source in "[ -~\n]{0,200}") {
            let _ = parse(&source);
        }

        #[test]
        fn yamlish_text_is_read_or_refused(parts in proptest::collection::vec(
            prop_oneof![Just("- "), Just(": "), Just("\n"), Just("\n  "), Just("{"), Just("}"), Just("["), Just("]"), Just("&a "),
                Just("*a"), Just("'"), Just("\""), Just("|"), Just("é"), Just("!!str "), Just("#"), Just("a"), Just("7"), Just(", ")], 0..60)) {
            let source: String = parts.concat();
            if let Ok(node) = parse(&source) {
                prop_assert!(source.get(node.span.clone()).is_some());
            }
        }
    }
}
