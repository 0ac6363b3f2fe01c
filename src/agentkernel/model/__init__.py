"""What things are: identifiers, specifications, results, capabilities, errors.

Values only. Nothing here decides, waits, or knows how a thing is spelled on a wire (`protocol`) or made on a host
(`drivers`). Standard library only, so that every other room may import it.
"""
