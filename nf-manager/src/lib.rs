//! The L2/L3 data plane of MiddleNet
