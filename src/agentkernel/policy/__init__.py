"""May it? Configuration, presets, what a program finds, and which backend a request gets: verdicts with their reason
and remedy.

Pure: reads no file, no environment, no clock; what it needs to know is handed in. It decides and says why; `engine`
and the doors act.
"""
