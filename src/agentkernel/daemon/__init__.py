"""The process: places, configuration, the socket, signals, logs, and the door of the daemon protocol.

`service` answers one request by policy and engine; `connection` reads lines and keeps their order; `app` puts
everything together and takes it apart. What a message looks like is `protocol`'s business, what may be done `policy`'s,
what is done `engine`'s.
"""
