# A request handler that calls a C extension with a bug.
require 'parser'

class TopicController
  def show(id)
    render({ topic: id }.to_s)
  end

  def render(json)
    FastParser.parse(json)
  end
end

def handle_request(id)
  TopicController.new.show(id)
end

handle_request(42)
