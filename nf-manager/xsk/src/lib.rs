//! AF_XDP sockets over a shared packet region
