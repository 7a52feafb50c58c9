//! The middlenet command: manifest, supervisor, control
