"""The certificate authority and what every node holds of it.

Owns: the root (`root`), the leaf certificates it signs (`issuer`), what its rotation begins with
(`rotation`), external CAs (`external`, `cfssl`), who of them signs (`signing`), join tokens
(`join_token`), the one function that turns a certificate into an identity (`identity`), and a
node's own: what it shows and trusts now (`own_identity`), its files (`node_files`, `key_file`), the
key that locks a manager's (`unlock_key`), how it gets its first certificate (`enrolment`, with
`join_record`) and the next ones (`renewer`, from a `source`), and which root it takes after the
present one (`successor`).
A node *is* its certificate: CN node id, OU role, O cluster id. The root's key lives in the store
alone; on disk a node keeps the root's certificate, its own certificate and one key file (0600)
which also carries the keys that seal its data at rest, itself sealed where the swarm locks its
managers. Files are replaced atomically, and the key of a request is durable before the request
leaves: after a crash at any point the certificate on disk has its key, and one that was issued
meanwhile is picked up.
"""
