"""What nothing needs any more, removed: builds, model files, OpenCode's versions, leftovers.

No part of a converge. Decides by what :mod:`facts.holdings` read, in pure code, and removes by one
guarded command what is ours beyond doubt: nothing else is touched, no link is followed, a folder
goes only when it is empty.
"""
