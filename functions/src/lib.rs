//! The catalogue of built-in network functions
