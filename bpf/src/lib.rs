//! BPF programs of MiddleNet and their attachment
