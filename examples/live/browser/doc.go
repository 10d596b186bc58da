// Package browser tests the page of examples/live in a headless Chromium: its buttons do what they say, the page shows it, it can be used
// with the keyboard, and its contrast is enough in light and in dark.
//
// It is a module of its own so that the examples do not require a browser's protocol. With -screenshots it renews the pictures of the page in
// the documentation:
//
//	go test -run TestScreenshots -screenshots ../../../docs
package browser
