//! Raw bindings to the host's libdpdk
