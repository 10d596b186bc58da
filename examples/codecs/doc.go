// Package codecs shows caches whose values are stored as MessagePack and as Protocol Buffers; see its Examples.
package codecs
