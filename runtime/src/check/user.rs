//! The user that functions run under, and the files they may open.

use serde_json::Value;
use std::path::PathBuf;

use super::Checker;
use crate::confine::Files;
use crate::domain::Ids;
use crate::machine::resolve;
use crate::manifest::{FunctionEntry, UserForm};
use crate::plan::DomainUser;

/// What marks a field of a configuration as the path of a file: `read` or `write`.
const MARK: &str = "x-middlenet-file";

impl Checker<'_> {
    pub(super) fn user(&mut self) -> DomainUser {
        let Some(form) = &self.manifest.user else { return DomainUser::Own };
        let span = self.manifest.span(["user"]);
        let ids = match form {
            UserForm::Number(uid) => self.surroundings.user(&uid.to_string()).or(Some(Ids::alike(*uid))),
            UserForm::Name(name) => self.surroundings.user(name),
        };
        let (message, hint) = match (ids, form) {
            (Some(Ids { uid: 0, .. } | Ids { gid: 0, .. }), _) => (
                "functions do not run as root, nor in its group: they could reach every other run".to_owned(),
                "name another user, or remove `user`: then the run has one of its own",
            ),
            (Some(Ids { uid: u32::MAX, .. }), _) => (
                "4294967295 is no user".to_owned(),
                "name another user, or remove `user`: then the run has one of its own",
            ),
            (Some(ids), _) => return DomainUser::Given(ids),
            (None, form) => (
                format!("this host has no user `{form}`"),
                "`useradd --system --no-create-home NAME` makes one; without `user`, the run has one of its own",
            ),
        };
        self.problem(span, message, Some(hint.into()));
        DomainUser::Own
    }

    /// The files of a function in a process: those of its options, and, of built-in functions, those of its configuration.
    pub(super) fn files(&self, entry: &FunctionEntry) -> Files {
        let absolute = |path: &PathBuf| resolve(self.surroundings.folder(), path);
        let mut files = Files {
            reads: entry.options.reads.iter().flatten().map(absolute).collect(),
            writes: entry.options.writes.iter().flatten().map(absolute).collect(),
        };
        // What others' functions say of themselves does not open files to them.
        if entry.options.run.is_none()
            && let Some(registration) = self.registry.iter().find(|r| r.name == entry.function)
        {
            let schema = registration.schema();
            let config = entry.config_json();
            let mut found = Vec::new();
            collect(&schema, &schema, &config, &mut found);
            for (mark, path) in found {
                let path = absolute(&path.into());
                if mark == "write" { files.writes.push(path) } else { files.reads.push(path) }
            }
        }
        files
    }
}

/// Finds the marked fields of a configuration. Files to write are absolute: where they may stand, words do as well (`stderr`).
fn collect<'v>(root: &Value, schema: &Value, value: &'v Value, found: &mut Vec<(String, &'v str)>) {
    if let Some(at) = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')).and_then(|at| root.pointer(at)) {
        collect(root, at, value, found);
    }
    if let (Some(mark), Some(path)) = (schema[MARK].as_str(), value.as_str())
        && (mark == "read" || path.starts_with('/'))
    {
        found.push((mark.to_owned(), path));
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        for schema in schema[choice].as_array().into_iter().flatten() {
            collect(root, schema, value, found);
        }
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name) {
            collect(root, schema, value, found);
        }
    }
    for item in value.as_array().into_iter().flatten() {
        collect(root, &schema["items"], item, found);
    }
}
