"""The certificate authority and what every node holds of it.

Owns: the root (`root`), the leaf certificates it signs (`issuer`), what its rotation begins with
(`rotation`), external CAs (`external`), who of them signs (`signing`), join tokens (`join_token`),
the one function that turns a certificate into an identity (`identity`) and the node's own files
(`node_files`). A node *is* its certificate: CN node id, OU role, O cluster id. The root's key lives
in the store alone; on disk a node keeps the root's certificate, its own certificate and one key
file (0600) which also carries the keys that seal its data at rest. Files are replaced atomically,
the key before the certificate: after a crash in between, the pair on disk still belongs together.
"""
