"""What a converge does, in order: the table of contents."""

from deploys.claude_code import claude_code
from deploys.common.summary import summarise_failures
from deploys.cuda import cuda
from deploys.drift_timer import drift_timer
from deploys.driver import driver
from deploys.llama_cpp import llama_cpp
from deploys.llama_server import llama_server
from deploys.models import models
from deploys.opencode import opencode
from deploys.packages import packages
from deploys.preflight import preflight

summarise_failures()

preflight()
packages()
driver()
cuda()
llama_cpp()
models()
llama_server()
opencode()
claude_code()
drift_timer()
