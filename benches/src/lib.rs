//! The measuring harness of MiddleNet
