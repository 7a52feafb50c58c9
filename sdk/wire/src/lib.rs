//! Checked views and builders of packet headers
