//! Write network functions for MiddleNet
